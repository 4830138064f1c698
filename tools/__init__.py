"""Commands for maintainers: protobuf stubs, and tables written from the reference results."""
