"""What a team of agents is worth, from what its agents are; role `mixing`."""
