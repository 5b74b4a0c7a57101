"""Image sets: `index` makes manifests from archives, `batches` reads batches by them."""
