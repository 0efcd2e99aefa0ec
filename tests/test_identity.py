"""Stable names of sound cards, from the folders in which a system tells of them."""

import pytest

from serstream.identity import identities


@pytest.fixture
def plug(tmp_path):
    """Plug a USB microphone into a port, as a card of this number."""

    def plug(card, port, serial):
        for folder, name in (
            ("by-id", f"usb-Maker_Mic_{serial}-00"),
            ("by-path", f"pci-0000:00:14.0-usb-0:{port}:1.0"),
        ):
            links = tmp_path / "dev/snd" / folder
            links.mkdir(parents=True, exist_ok=True)
            (links / name).unlink(missing_ok=True)
            (links / name).symlink_to(f"../controlC{card}")
        device = tmp_path / f"sys/devices/usb1/1-{port}"
        interface = device / f"1-{port}:1.0"
        interface.mkdir(parents=True, exist_ok=True)
        for part, text in (("idVendor", "0d8c"), ("idProduct", "0014"), ("serial", serial)):
            (device / part).write_text(text + "\n")
        entry = tmp_path / f"sys/class/sound/card{card}"
        entry.mkdir(parents=True)
        (entry / "device").symlink_to(interface)

    return plug


def test_a_device_keeps_its_identities_under_another_number(plug, tmp_path):
    plug(1, 2, "A7")
    before = identities("USB Audio: - (hw:1,0)", tmp_path)
    assert before == ["usb-Maker_Mic_A7-00", "pci-0000:00:14.0-usb-0:2:1.0", "usb-0d8c:0014:A7"]
    plug(3, 2, "A7")
    assert identities("USB Audio: - (hw:3,0)", tmp_path) == before
    assert "usb-Maker_Mic_A7-00" not in identities("another (hw:1,0)", tmp_path)


def test_the_second_device_of_a_card_is_another(plug, tmp_path):
    plug(0, 1, "B1")
    assert identities("Stereo In (hw:0,2)", tmp_path)[0] == "usb-Maker_Mic_B1-00,2"


@pytest.mark.parametrize("name", ["pulse", "default", "HDA Intel (hw:5,0)"])
def test_what_the_system_tells_nothing_of_has_its_name_alone(plug, tmp_path, name):
    plug(1, 2, "A7")
    assert identities(name, tmp_path) == []
    assert identities(name, tmp_path / "nothing") == []


def test_a_device_without_a_serial_number_has_its_place(plug, tmp_path):
    plug(1, 2, "")
    (tmp_path / "sys/devices/usb1/1-2/serial").unlink()
    assert identities("USB Audio: - (hw:1,0)", tmp_path)[-1] == "pci-0000:00:14.0-usb-0:2:1.0"
