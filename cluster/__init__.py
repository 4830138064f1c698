"""The processes of a cluster and how they call each other: registry, nodes, flows, launchers, model servers."""
