"""What commands share: options, tables, suites."""
