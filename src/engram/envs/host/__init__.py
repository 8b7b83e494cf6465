"""Host environments: any Gymnasium environment, in this process or in processes of its own."""
