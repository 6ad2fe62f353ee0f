"""What a page needs to run the model by itself: weights, vocabulary, steerings, and the engine that `engine/` holds."""
