"""Who talks to whom: registry, node, flows, launching and stopping processes."""
