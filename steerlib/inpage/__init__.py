"""What the page "Steer it yourself" is made of: weights, steerings, the grid and the people, packed for a browser."""
