"""What is done to a running model: operations at sites, applying them, reading activations, edits and controls."""
