//! What crosses a wire: HTTP bodies, step inputs and outputs, tool arguments, events. Plain data, no IO.
#![warn(missing_docs)]
