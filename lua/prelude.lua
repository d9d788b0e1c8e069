-- The part of a machine file's environment that is easier to write in Lua. Compiled into `offload`, and called once with
-- a table of functions written in Rust, before the machine file is evaluated.

local host = ...

local load_chunk, searchpath, protect = load, package.searchpath, setmetatable
local error, rawget, select, tostring, type = error, rawget, select, tostring, type
local concat = table.concat
local stderr = io.stderr
local write = stderr.write

-- Programs come as text only: a damaged bytecode can crash the interpreter.
function load(chunk, name, _, ...)
  return load_chunk(chunk, name, "t", ...)
end

local function load_file(file, _, ...)
  local text, name = host.read_chunk(file)
  if not text then return nil, name end
  return load_chunk(text, name, "t", ...)
end

loadfile = load_file

function dofile(file)
  local chunk, message = load_file(file)
  if not chunk then error(message, 0) end
  return chunk()
end

-- Modules: `require "name"` finds NAME.lua or NAME/init.lua beside the machine file.
local loading = {}

function require(name)
  if type(name) ~= "string" then error("require: expected the name of a module, found a " .. type(name), 2) end
  local loaded = package.loaded
  if loaded[name] ~= nil then return loaded[name] end
  if loading[name] then error("module '" .. name .. "' requires itself", 2) end
  local chunk, file = package.preload[name], ":preload:"
  if not chunk then
    file = searchpath(name, package.path)
    if not file then
      error("module '" .. name .. "' not found: there is no " .. host.candidates(name), 2)
    end
    local message
    chunk, message = load_file(file)
    if not chunk then error(message, 0) end
  end
  loading[name] = true
  local value = chunk(name, file)
  loading[name] = nil
  if value ~= nil then loaded[name] = value end
  if loaded[name] == nil then loaded[name] = true end
  return loaded[name]
end

package.path = host.module_path
package.cpath, package.loadlib, package.searchers = nil, nil, nil

-- Finalizers run at moments that nobody chooses, and no limit reaches into them.
function setmetatable(value, metatable)
  if type(metatable) == "table" and rawget(metatable, "__gc") ~= nil then
    error("finalizers (__gc) are not available in a machine file", 2)
  end
  return protect(value, metatable)
end

-- Standard output belongs to the program; what the machine file prints is a message.
function print(...)
  local words = {}
  for index = 1, select("#", ...) do words[index] = tostring((select(index, ...))) end
  write(stderr, concat(words, "\t") .. "\n")
end

function os.exit()
  error("os.exit is not available in a machine file: use return, or error", 2)
end

function os.setlocale()
  error("os.setlocale is not available in a machine file", 2)
end
