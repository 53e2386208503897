//! `kubectl quorate`.
