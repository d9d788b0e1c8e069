-- A pool of one machine: what every machine file needs.
return {
  build_machine {
    name = "build.example.org",
    user = "offload",
    systems = { "x86_64-linux" },
    -- On the build machine: cat /etc/ssh/ssh_host_ed25519_key.pub
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIL7IXUOk4UGVgqdIPoSuBaIAMeKniSBTCBBJ3SWoyb2u",
  },
}
