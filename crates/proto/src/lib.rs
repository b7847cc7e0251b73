//! Generated wire types and the descriptor set of keyholder.v1.
