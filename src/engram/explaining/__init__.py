"""Why an agent chose: what it looked at, what it remembered, and whether that is true."""
