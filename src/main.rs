//! The command `offload`: a thin shell over the library.

fn main() {}
