"""The Ray part: the actors that hold devices, and the driver that keeps every actor fed. The only package that imports ray.

Ray places, watches and restarts processes. nstray writes only the policy: which shard goes where, who is to blame, when to stop.
"""
