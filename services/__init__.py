"""The shell: everything with a socket, a clock or a key; business rules live in `events`."""
