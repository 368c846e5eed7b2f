"""The HTTP contract: schemas, problems, one module a resource."""
