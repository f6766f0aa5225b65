"""PURE: what may happen and what has happened; knows no socket, clock, key or database."""
