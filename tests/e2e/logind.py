# SPDX-License-Identifier: Apache-2.0
"""A logind that does as it is told, on a private system bus."""
import os
import subprocess

import dbus
import dbusmock

SESSION = "org.freedesktop.login1.Session"
MANAGER = "org.freedesktop.login1.Manager"


class Logind:
    """A logind of our own: agents started meanwhile talk to it. patience_s: how long it waits for
    those that delay a shutdown."""

    def __init__(self, patience_s=20):
        self.patience_s = patience_s

    def __enter__(self):
        dbusmock.DBusTestCase.setUpClass()
        dbusmock.DBusTestCase.start_system_bus()
        self.bus = dbusmock.DBusTestCase.get_dbus(system_bus=True)
        self.proc, self.manager = dbusmock.DBusTestCase.spawn_server_template(
            "logind", {}, stdout=subprocess.DEVNULL)
        self.manager.AddProperty(MANAGER, "InhibitDelayMaxUSec", dbus.UInt64(self.patience_s * 10**6),
                                 dbus_interface=dbusmock.MOCK_IFACE)
        self.manager.AddSession("c1", "seat0", 1000, "owner", True,
                                dbus_interface=dbusmock.MOCK_IFACE)
        self.session = self.bus.get_object("org.freedesktop.login1",
                                           "/org/freedesktop/login1/session/c1")
        self.hint("IdleHint", True)
        return self

    def __exit__(self, *_):
        self.proc.terminate()
        self.proc.wait(10)
        dbusmock.DBusTestCase.tearDownClass()
        os.environ.pop("DBUS_SYSTEM_BUS_ADDRESS", None)

    def hint(self, name, value):
        self.session.UpdateProperties(SESSION, {name: value}, dbus_interface=dbusmock.MOCK_IFACE)

    def announce(self, what, begins):
        self.manager.EmitSignal(MANAGER, what, "b", [begins], dbus_interface=dbusmock.MOCK_IFACE)

    def inhibitors(self):
        return self.manager.ListInhibitors(dbus_interface=MANAGER)
