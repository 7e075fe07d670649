"""What is asked of the database: one module for each thing that is stored, one file a query."""
