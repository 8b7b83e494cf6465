"""Working memories: what sees more than one observation of an episode, and is emptied where the episode begins."""
