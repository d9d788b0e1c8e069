-- The virtual build machine of Guix System (build-vm, "Virtualization Services" in the manual of Guix).
return {
  build_machine {
    name = "localhost",
    port = 11022,
    user = "offloading",
    systems = { "x86_64-linux" },
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
    parallel_builds = 2,
    on_demand = {
      start = { "herd", "start", "build-vm" },
      stop = { "herd", "stop", "build-vm" },
      idle = 1800,
    },
  },
}
