-- Converted from none.scm by 'offload convert'.
-- Fields that have their default are left out. Guix's default compression is zlib, here it is "auto"; the
-- default private key of Guix is ~/.ssh/id_rsa of the account that runs the daemon.
-- Values that the program computed are fixed now. If its list came from another source, such as an inventory, this
-- file can read that too: it is a program in Lua. Check it with 'offload eval'.

return {
}
-- warnings:
