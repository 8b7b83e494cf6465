"""External memories: stores of past experience that outlive episodes, read by attention."""
