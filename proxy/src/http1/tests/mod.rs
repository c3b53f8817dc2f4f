//! The engine alone, over real sockets: a client that writes bytes, a handler
//! that passes each request on, and an upstream that is a script.

mod bodies;
mod connections;
mod cuts;
mod heads;
mod stage;
mod tunnels;
