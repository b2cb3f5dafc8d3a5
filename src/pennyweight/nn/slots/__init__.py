"""What fills the slots of a matrix product: one idea a file."""
