"""Go, played by pgx (extra `board`): the game, simple players, GNU Go, and a person in the terminal."""
