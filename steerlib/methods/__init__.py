"""Methods: each is one public function from a model and data to a Steering."""
