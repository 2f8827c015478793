"""Arrays of a whole split, without gradient: features, neighbors, clusters, scores."""
