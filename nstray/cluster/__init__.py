"""The Ray part: workers on the devices of a cluster, and the driver that feeds them.

The only package that imports ray. Ray places, watches and restarts processes. nstray writes only
the policy: which shard goes where, which pair or machine is to blame for a failure, when to stop.
"""
