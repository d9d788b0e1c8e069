-- Functions of Lua's standard library that can run for hours inside a single call, where no limit reaches them. Here
-- they can be cancelled: their loops are in Lua, or in functions of the host that check for cancellation, or a call
-- that would take long is an error. The limit of memory bounds the time of the other functions.
--
-- Compiled into `offload`, and called once with a table of functions written in Rust, before the prelude. The
-- originals are called if they are fast.

local host = ...

local collectgarbage, error, getmetatable, load, select, tonumber, tostring, type, warn =
  collectgarbage, error, getmetatable, load, select, tonumber, tostring, type, warn
local byte, format, rep, sub = string.byte, string.format, string.rep, string.sub
local concat, insert, move, remove, sort, unpack =
  table.concat, table.insert, table.move, table.remove, table.sort, table.unpack
local integer_type, maxinteger, min, tointeger = math.type, math.maxinteger, math.min, math.tointeger
local date, searchpath = os.date, package.searchpath
local find, park_if_cancelled, replace, scan = host.find, host.park_if_cancelled, host.replace, host.scan

-- The most elements that an original handles, whatever their metamethods do.
local FEW = 1000
-- The most arguments of `string.format`: more than a call in a program can have.
local MOST_ARGUMENTS = 250
local LONGEST_DATE, LONGEST_PATH = 1000, 10000
-- Bytes of a program that are compiled between two checks for cancellation.
local PIECE = 4096

local function bad(number, name, expected, value)
  error("bad argument #" .. number .. " to '" .. name .. "' (" .. expected .. " expected, got " .. type(value) .. ")", 4)
end

-- Arguments as C functions take them.
local function text(value, number, name)
  local kind = type(value)
  if kind == "string" then return value end
  if kind ~= "number" then bad(number, name, "string", value) end
  return tostring(value)
end

local function integer(value, number, name, default)
  if value == nil then return default end
  local whole = tointeger(value)
  if not whole then
    if not tonumber(value) then bad(number, name, "number", value) end
    error("bad argument #" .. number .. " to '" .. name .. "' (number has no integer representation)", 3)
  end
  return whole
end

-- Where a search begins, from 0; nil if behind the end.
local function beginning(init, length)
  if init == 0 or init < -length then return 0 end
  if init < 0 then return length + init end
  return init <= length + 1 and init - 1 or nil
end

local function give(message, ...)
  if message then error(message, 2) end
  return ...
end

function string.find(s, pattern, init, plain)
  s, pattern = text(s, 1, "find"), text(pattern, 2, "find")
  local from = beginning(integer(init, 3, "find", 1), #s)
  if not from then return nil end
  return give(find(s, pattern, from, plain))
end

local function captures(message, first, _, ...)
  if message then error(message, 2) end
  if not first then return nil end
  return ...
end

function string.match(s, pattern, init)
  s, pattern = text(s, 1, "match"), text(pattern, 2, "match")
  local from = beginning(integer(init, 3, "match", 1), #s)
  if not from then return nil end
  local anchored = byte(pattern) == 94
  if anchored then pattern = sub(pattern, 2) end
  return captures(scan(s, pattern, from, nil, anchored))
end

function string.gmatch(s, pattern, init)
  s, pattern = text(s, 1, "gmatch"), text(pattern, 2, "gmatch")
  local from, except = beginning(integer(init, 3, "gmatch", 1), #s), nil
  local function following(message, first, last, ...)
    if message then error(message, 2) end
    if not first then return nil end
    from, except = last, last
    return ...
  end
  return function()
    if not from then return nil end
    return following(scan(s, pattern, from, except, false))
  end
end

-- Replaces by what a function or a table gives.
local function replace_by(s, pattern, with, most)
  local anchored = byte(pattern) == 94
  if anchored then pattern = sub(pattern, 2) end
  local is_function = type(with) == "function"
  local pieces, count, from, except, changed = {}, 0, 0, nil, false
  local function one(message, first, last, ...)
    if message then error(message, 4) end
    if not first then return false end
    pieces[#pieces + 1] = sub(s, from + 1, first)
    local value
    if is_function then value = with(...) else value = with[(...)] end
    local kind = type(value)
    if not value then
      pieces[#pieces + 1] = sub(s, first + 1, last)
    elseif kind == "string" or kind == "number" then
      pieces[#pieces + 1], changed = value, true
    else
      error("invalid replacement value (a " .. kind .. ")", 4)
    end
    count, from, except = count + 1, last, last
    return not anchored
  end
  while count < most and one(scan(s, pattern, from, except, anchored, not is_function)) do end
  if not changed then return s, count end
  pieces[#pieces + 1] = sub(s, from + 1)
  return concat(pieces), count
end

function string.gsub(s, pattern, with, most)
  s, pattern = text(s, 1, "gsub"), text(pattern, 2, "gsub")
  local kind = type(with)
  most = integer(most, 4, "gsub", #s + 1)
  if most < 0 then most = 0 end
  if kind == "function" or kind == "table" then
    local result, count = replace_by(s, pattern, with, most)
    return result, count
  end
  if kind ~= "string" and kind ~= "number" then
    error("bad argument #3 to 'gsub' (string/function/table expected, got " .. kind .. ")", 2)
  end
  local message, result, count = replace(s, pattern, tostring(with), most)
  if message then error(message, 2) end
  return result or s, count
end

-- An empty text is repeated for as many times as it takes.
function string.rep(s, count, separator)
  if (s == "" and (separator == nil or separator == "")) and (tonumber(count) or 0) > 1 then count = 1 end
  local result = rep(s, count, separator)
  return result
end

-- Each of them may be measured from begin to end.
function string.format(template, ...)
  if select("#", ...) > MOST_ARGUMENTS then
    error("string.format: more than " .. MOST_ARGUMENTS .. " arguments", 2)
  end
  local result = format(template, ...)
  return result
end

-- Whether an operation on elements FIRST to LAST of a table is quick. What is no whole number is an error, or nearly.
local function is_quick(first, last)
  if integer_type(first) ~= "integer" or integer_type(last) ~= "integer" then return false end
  return last < first or last - first >= 0 and last - first < FEW
end

-- A copy of elements of a table that has metamethods, from 1.
local function copy(t, first, last)
  local plain = {}
  for index = first, last do plain[index - first + 1] = t[index] end
  return plain
end

-- Without metamethods the original ends at the first element that is not there.
function table.concat(t, separator, first, last)
  if type(t) ~= "table" or getmetatable(t) == nil then
    local result = concat(t, separator, first, last)
    return result
  end
  first, last = integer(first, 3, "concat", 1), integer(last, 4, "concat", #t)
  local plain = {}
  for index = first, last do
    local value = t[index]
    local kind = type(value)
    if kind ~= "string" and kind ~= "number" then
      error("invalid value (" .. kind .. ") at index " .. index .. " in table for 'concat'", 2)
    end
    plain[#plain + 1] = value
  end
  local result = concat(plain, separator)
  return result
end

function table.insert(t, ...)
  local position = ...
  if select("#", ...) == 2 and type(t) == "table" then
    position = tointeger(position)
    local last = #t + 1
    if position and position >= 1 and position <= last and not is_quick(position, last) then
      for index = last, position + 1, -1 do t[index] = t[index - 1] end
      t[position] = select(2, ...)
      return
    end
  end
  insert(t, ...)
end

function table.remove(t, ...)
  local position = ...
  if select("#", ...) > 0 and type(t) == "table" then
    position = tointeger(position)
    local last = #t
    if position and position >= 1 and position <= last and not is_quick(position, last) then
      local value = t[position]
      for index = position, last - 1 do t[index] = t[index + 1] end
      t[last] = nil
      return value
    end
  end
  local value = remove(t, ...)
  return value
end

function table.move(from, first, last, to, target)
  local f, e, t = tointeger(first), tointeger(last), tointeger(to)
  local is_possible = f and e and t and e >= f and (f > 0 or e < maxinteger + f) and t <= maxinteger - (e - f)
  if not is_possible or is_quick(f, e) then
    local result = move(from, first, last, to, target)
    return result
  end
  if target == nil then target = from end
  if t > e or t <= f or target ~= from then
    for index = 0, e - f do target[t + index] = from[f + index] end
  else
    for index = e - f, 0, -1 do target[t + index] = from[f + index] end
  end
  return target
end

function table.unpack(t, first, last)
  local f, e = tointeger(first or 1), tointeger(last or #t)
  if type(t) ~= "table" or getmetatable(t) == nil or not f or not e or is_quick(f, e) then
    return unpack(t, first, last)
  end
  -- More than there is room for are an error at once.
  if e - f < 0 or e - f >= 1e6 then return unpack(t, first, last) end
  return unpack(copy(t, f, e), 1, e - f + 1)
end

local function is_less(one, other) return one < other end

-- Merges runs of twice the length each time.
local function sorted(from, last, less)
  local to, width = {}, 1
  while width < last do
    for first = 1, last, 2 * width do
      local middle, stop = min(first + width, last + 1), min(first + 2 * width, last + 1)
      local left, right = first, middle
      for index = first, stop - 1 do
        if left < middle and (right >= stop or not less(from[right], from[left])) then
          to[index], left = from[left], left + 1
        else
          to[index], right = from[right], right + 1
        end
      end
    end
    from, to, width = to, from, 2 * width
  end
  return from
end

function table.sort(t, less)
  if type(t) ~= "table" or less ~= nil and type(less) ~= "function" then
    sort(t, less)
    return
  end
  local last = #t
  local result = sorted(copy(t, 1, last), last, less or is_less)
  for index = 1, last do t[index] = result[index] end
end

-- The time to compile a long program can grow faster than the square of its length, so the compiler gets it in pieces.
local function in_pieces(program)
  local from = 1
  return function()
    park_if_cancelled()
    if from > #program then return nil end
    from = from + PIECE
    return sub(program, from - PIECE, from - 1)
  end
end

function _G.load(chunk, name, ...)
  if type(chunk) == "string" then
    return load(in_pieces(chunk), name == nil and chunk or name, ...)
  end
  if type(chunk) ~= "function" then
    local result, message = load(chunk, name, ...)
    return result, message
  end
  local function piece()
    park_if_cancelled()
    return chunk()
  end
  return load(piece, name, ...)
end

function _G.collectgarbage(...)
  park_if_cancelled()
  local result = collectgarbage(...)
  return result
end

function os.date(template, time)
  if #text(template == nil and "" or template, 1, "date") > LONGEST_DATE then
    error("os.date: the format has more than " .. LONGEST_DATE .. " characters", 2)
  end
  local result = date(template, time)
  return result
end

function package.searchpath(name, path, ...)
  if #text(name, 1, "searchpath") > LONGEST_PATH or #text(path, 2, "searchpath") > LONGEST_PATH then
    error("package.searchpath: a path has more than " .. LONGEST_PATH .. " characters", 2)
  end
  return searchpath(name, path, ...)
end

-- One message, and not one for each part.
function _G.warn(first, ...)
  text(first, 1, "warn")
  warn(concat({ first, ... }))
end
