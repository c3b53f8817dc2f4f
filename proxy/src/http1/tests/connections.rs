//! How connections are kept and how they end.
