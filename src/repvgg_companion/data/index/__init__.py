"""From archives, folders and shards to manifests: index, verify and pack."""
