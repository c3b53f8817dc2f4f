//! Bodies: their framing, their size, who waits for whom.
