//! pvm-mcp
