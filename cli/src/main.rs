//! `kubectl quorate`.

fn main() {}
