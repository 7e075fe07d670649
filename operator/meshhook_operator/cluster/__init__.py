"""The Kubernetes API: requests to it, and views of the objects that it returns."""
