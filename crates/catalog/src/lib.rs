//! Provider definitions: the built-in YAML files, their schema, loading, linting and templates.
