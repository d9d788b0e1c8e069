//! `offload.wake_on_lan(mac, { address = …, port = … })`: returns a function that wakes a machine up, for `start`.
//!
//! The function sends a magic packet over UDP: six bytes 0xff, then the hardware address sixteen times. Source: AMD, "Magic Packet
//! Technology", publication 20213. By default, the packet goes to the broadcast address 255.255.255.255, port 9. A
//! machine in another network needs the broadcast address of that network. Nothing shows whether the packet arrives.

use super::super::values::{describe, string, whole};
use mlua::{Lua, Table, Value};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The usual port: that of the service "discard".
const DEFAULT_PORT: u16 = 9;

pub(super) fn register(lua: &Lua, module: &Table) -> mlua::Result<()> {
    let wake = |lua: &Lua, (mac, options): (Value, Option<Table>)| {
        let wrong = |message: String| mlua::Error::RuntimeError(format!("wake_on_lan: {message}"));
        let Some(address) = string(&mac).as_deref().and_then(parse) else {
            let expected = "expected a hardware address such as \"00:16:3e:12:34:56\"";
            return Err(wrong(format!("{expected}, found {}", describe(&mac))));
        };
        let target = target(options.as_ref()).map_err(wrong)?;
        lua.create_function(move |_, _: Value| {
            send(address, target).map_err(|error| wrong(format!("cannot send to {target}: {error}")))
        })
    };
    module.raw_set("wake_on_lan", lua.create_function(wake)?)
}

/// Parses a hardware address: six bytes in hexadecimal, with colons or hyphens.
fn parse(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<&str> = text.split(separator).collect();
    let is_byte = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bytes: Option<Vec<u8>> =
        parts.iter().map(|part| u8::from_str_radix(Some(part).filter(|part| is_byte(part))?, 16).ok()).collect();
    bytes?.try_into().ok()
}

fn target(options: Option<&Table>) -> Result<SocketAddr, String> {
    let mut target = SocketAddr::from((Ipv4Addr::BROADCAST, DEFAULT_PORT));
    let Some(options) = options else { return Ok(target) };
    for pair in options.pairs::<Value, Value>() {
        let (key, value) = pair.map_err(|error| error.to_string())?;
        match string(&key).as_deref() {
            Some("address") => {
                let address = string(&value).and_then(|text| text.parse::<IpAddr>().ok());
                target.set_ip(
                    address.ok_or_else(|| format!("address: expected an IP address, found {}", describe(&value)))?,
                );
            }
            Some("port") => {
                let port = whole(&value).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
                target.set_port(port.ok_or_else(|| format!("port: expected a port, found {}", describe(&value)))?);
            }
            _ => return Err(format!("unknown option {}", describe(&key))),
        }
    }
    Ok(target)
}

fn send(address: [u8; 6], target: SocketAddr) -> std::io::Result<()> {
    let own: IpAddr = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((own, 0))?;
    socket.set_broadcast(true)?;
    let packet = [&[0xff; 6][..], &address.repeat(16)].concat();
    socket.send_to(&packet, target).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_has_six_bytes() {
        let address = Some([0x00, 0x16, 0x3e, 0xab, 0xCD, 0xff]);
        assert_eq!((parse("00:16:3e:ab:CD:ff"), parse("00-16-3E-AB-cd-FF")), (address, address));
        for text in
            ["", "00:16:3e:ab:cd", "00:16:3e:ab:cd:ff:00", "0:16:3e:ab:cd:ff", "00:16:3e:ab:cd:+f", "0016.3eab.cdff"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_packet_has_the_address_sixteen_times() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        send([1, 2, 3, 4, 5, 6], receiver.local_addr().unwrap()).unwrap();
        let mut packet = [0; 200];
        let length = receiver.recv(&mut packet).unwrap();
        assert_eq!(length, 102);
        assert!(packet[..6].iter().all(|byte| *byte == 0xff));
        assert!(packet[6..102].chunks(6).all(|chunk| chunk == [1, 2, 3, 4, 5, 6]));
    }
}
