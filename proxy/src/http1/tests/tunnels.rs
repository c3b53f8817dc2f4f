//! Upgrades and CONNECT.
