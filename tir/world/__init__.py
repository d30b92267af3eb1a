"""A generated world: fictional entities, their passages, questions and problems in the upstream file formats."""
