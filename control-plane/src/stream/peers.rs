//! How many streams each address has, bounded.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

/// Streams from one address at once. A sidecar has two; behind one address
/// there may be a whole node.
pub const MAX_STREAMS_PER_PEER: usize = 1_024;

/// The streams of each address.
#[derive(Clone, Default)]
pub struct Peers {
    streams: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// Counts a stream for as long as it lives.
pub struct Permit {
    peers: Peers,
    /// None where the transport does not know: nothing is counted then.
    peer: Option<IpAddr>,
}

impl Peers {
    /// One more stream of this peer.
    ///
    /// # Errors
    /// When it has [`MAX_STREAMS_PER_PEER`] already.
    pub fn admit(&self, peer: Option<SocketAddr>) -> Result<Permit, Status> {
        let peer = peer.map(|address| address.ip().to_canonical());
        if let Some(peer) = peer {
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            let count = streams.entry(peer).or_insert(0);
            if *count >= MAX_STREAMS_PER_PEER {
                let message = format!("{peer} has {MAX_STREAMS_PER_PEER} streams already");
                return Err(Status::resource_exhausted(message));
            }
            *count += 1;
        }
        Ok(Permit {
            peers: self.clone(),
            peer,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(peer) = self.peer else {
            return;
        };
        let streams = &self.peers.streams;
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = streams.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_streams_and_gives_them_back() {
        let peers = Peers::default();
        let peer = Some("10.0.0.1:1".parse().unwrap());
        let permits: Vec<_> = (0..MAX_STREAMS_PER_PEER)
            .map(|_| peers.admit(peer).unwrap())
            .collect();
        assert!(
            peers
                .admit(Some("[::ffff:10.0.0.1]:2".parse().unwrap()))
                .is_err()
        );
        assert!(peers.admit(Some("10.0.0.2:1".parse().unwrap())).is_ok());
        drop(permits);
        assert!(peers.streams.lock().unwrap().is_empty());
        assert!(peers.admit(peer).is_ok());
    }
}
