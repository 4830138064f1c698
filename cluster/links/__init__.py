"""Links between hosts: a relay in user space that imposes bandwidth, propagation delay and jitter on connections."""
