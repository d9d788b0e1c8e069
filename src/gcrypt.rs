//! gcrypt
