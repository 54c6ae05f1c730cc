//! What recorded argument lists of callers mean.
