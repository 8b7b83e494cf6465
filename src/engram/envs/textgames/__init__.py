"""Text games: what is read as words, commands as offered actions, games of TextWorld that are made once."""
