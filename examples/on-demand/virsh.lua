-- A virtual machine of libvirt on this head: started when a build needs it, shut down after ten minutes without one.
return {
  build_machine {
    name = "vm1.example.org",
    user = "offload",
    systems = { "x86_64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
    on_demand = {
      start = { "virsh", "--connect", "qemu:///system", "start", "vm1" },
      -- Succeeds if the machine does not run, and waits for nothing: offload does that.
      stop = { "/bin/sh", "-c", 'virsh --connect qemu:///system shutdown vm1 || [ "$(virsh --connect qemu:///system domstate vm1)" = "shut off" ]' },
    },
  },
}
