"""The Ray part: the actor that holds a device, and the driver that keeps every actor fed. The only package that imports ray.

Ray places, watches and restarts processes; nstray writes only the policy: what to hand out, whom to blame, when to stop.
"""

from nstray.cluster.driver import Driver, Outcome
from nstray.cluster.probe_pool import Trial
from nstray.cluster.ray_session import Devices, Stylist, devices, start_ray, stop_ray, stylist_factory
from nstray.cluster.worker_handle import Slot

__all__ = ["Devices", "Driver", "Outcome", "Slot", "Stylist", "Trial", "devices", "start_ray", "stop_ray", "stylist_factory"]
