//! What goes out in one system call: small pieces copied one behind the other,
//! large ones where they lie.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use super::limits::{COPIED_BYTES, GATHERED_PIECES};

/// Entries of the list that the kernel is given.
const SLICES: usize = 2 * GATHERED_PIECES + 1;

/// What is put together for one write.
#[derive(Debug)]
pub struct Batch<'a> {
    small: &'a mut Vec<u8>,
    /// Each goes out before the byte of `small` at its place. Optional, because
    /// an empty `Bytes` costs a call to drop.
    large: [Option<(usize, Bytes)>; GATHERED_PIECES],
    count: usize,
    large_bytes: usize,
}

impl<'a> Batch<'a> {
    /// Copies into `small`, which is emptied.
    pub fn new(small: &'a mut Vec<u8>) -> Self {
        small.clear();
        Self {
            small,
            large: [const { None }; GATHERED_PIECES],
            count: 0,
            large_bytes: 0,
        }
    }

    /// For heads and framing.
    pub fn small(&mut self) -> &mut Vec<u8> {
        self.small
    }

    /// A piece of a body.
    pub fn data(&mut self, data: Bytes) {
        if data.len() <= COPIED_BYTES || self.count == self.large.len() {
            self.small.extend_from_slice(&data);
            return;
        }
        self.large_bytes += data.len();
        self.large[self.count] = Some((self.small.len(), data));
        self.count += 1;
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.small.len() + self.large_bytes
    }

    /// Writes what comes after the first `skip` bytes, once.
    pub fn poll_write<W: AsyncWrite>(
        &self,
        stream: Pin<&mut W>,
        cx: &mut Context<'_>,
        skip: usize,
    ) -> Poll<io::Result<usize>> {
        if self.count == 0 {
            return stream.poll_write(cx, &self.small[skip..]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut filled = 0;
        self.each_after(skip, |bytes| {
            slices[filled] = IoSlice::new(bytes);
            filled += 1;
        });
        stream.poll_write_vectored(cx, &slices[..filled])
    }

    /// Puts what comes after the first `skip` bytes behind `unsent`.
    pub fn keep_rest(self, skip: usize, unsent: &mut VecDeque<Bytes>) {
        if skip == self.len() {
            return;
        }
        let mut skip = skip;
        let mut keep = |mut bytes: Bytes| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            bytes.advance(skipped);
            if !bytes.is_empty() {
                unsent.push_back(bytes);
            }
        };
        let mut from = 0;
        for (place, data) in self.large.into_iter().flatten() {
            keep(Bytes::copy_from_slice(&self.small[from..place]));
            keep(data);
            from = place;
        }
        keep(Bytes::copy_from_slice(&self.small[from..]));
    }

    fn each_after<'b>(&'b self, skip: usize, mut give: impl FnMut(&'b [u8])) {
        let mut skip = skip;
        let mut pass = |bytes: &'b [u8]| {
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() {
                give(&bytes[skipped..]);
            }
        };
        let mut from = 0;
        for (place, data) in self.large.iter().flatten() {
            pass(&self.small[from..*place]);
            pass(data);
            from = *place;
        }
        pass(&self.small[from..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_after_any_number_of_bytes_is_what_follows() {
        let mut small = Vec::new();
        let large = Bytes::from(vec![b'L'; COPIED_BYTES + 1]);
        let fill = |batch: &mut Batch<'_>| {
            batch.small().extend_from_slice(b"head");
            batch.data(large.clone());
            batch.small().extend_from_slice(b"\r\n");
            batch.data(Bytes::from_static(b"tail"));
            batch.data(large.clone());
        };
        let mut whole = b"head".to_vec();
        whole.extend_from_slice(&large);
        whole.extend_from_slice(b"\r\ntail");
        whole.extend_from_slice(&large);
        for skip in [0, 1, 4, 5, 4 + large.len(), 7 + large.len(), whole.len()] {
            let mut batch = Batch::new(&mut small);
            fill(&mut batch);
            assert_eq!(batch.len(), whole.len());
            let mut seen = Vec::new();
            batch.each_after(skip, |bytes| seen.extend_from_slice(bytes));
            assert_eq!(seen, whole[skip..]);
            let mut unsent = VecDeque::new();
            batch.keep_rest(skip, &mut unsent);
            let unsent: Vec<u8> = unsent.into_iter().flatten().collect();
            assert_eq!(unsent, whole[skip..]);
        }
    }
}
