-- Hears one process and tells it what all have in common, in one step. See `_protocol/sharing.py` and `telling.py`.
-- Times are in milliseconds, of the clock of Redis.
--
-- calls: all calls, each by the moment from which a window is still to go: its end, or for one that
--   is under way the end of its lease. others: the same for calls that only the service knows of.
-- seen: when each process was last heard. spare: what is set aside for each, should it hear no more.
-- line: how many places each process still wants, until when that holds, and when it last got some.
-- state: the pause after a 429 (`until`), whether a probe has to go first (`unclear`), which process
--   has one under way (`probe`, `probe_until`), and until when others may yet tell theirs (`settled`).
local calls, others, seen, spare, line, state = unpack(KEYS)
local ask = cjson.decode(ARGV[1])
local me = ask.process
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number) return string.format('%.0f', number + 0) end
local function after(moment) return '(' .. text(moment) end
local function name(number) return me .. ':' .. text(number) end
local function stated(field) return tonumber(redis.call('HGET', state, field) or 0) end
local function state_is(field, value) redis.call('HSET', state, field, value) end

local function heard_lately()
    return redis.call('ZCOUNT', seen, after(now - ask.silence), '+inf')
end

-- nobody was there: what they know is perhaps not known here
if heard_lately() == 0 then state_is('settled', text(now + ask.silence)) end
if ask.is_back or not (ask.tells_all or redis.call('HGET', spare, me)) then
    return cjson.encode({ is_known = false })
end

local longest = 0
for _, window in ipairs(ask.windows) do longest = math.max(longest, window[1]) end
redis.call('ZREMRANGEBYSCORE', calls, '-inf', text(now - longest - ask.silence))
redis.call('ZREMRANGEBYSCORE', others, '-inf', text(now - longest - ask.silence))

-- what the process tells
for _, other in ipairs(ask.others) do -- one that is cut off cannot say itself that it is there
    if stated('settled') > now and not redis.call('ZSCORE', seen, other[1]) then
        redis.call('ZADD', seen, text(now - other[2]), other[1])
    end
end
for _, number in ipairs(ask.returned) do redis.call('ZREM', calls, name(number)) end
for _, ended in ipairs(ask.ended) do redis.call('ZADD', calls, text(now - ended[2]), name(ended[1])) end
for _, number in ipairs(ask.under_way) do redis.call('ZADD', calls, text(now + ask.lease), name(number)) end

local has_probe = redis.call('HGET', state, 'probe') == me
if ask.is_probing and (has_probe or stated('probe_until') <= now) then
    redis.call('HSET', state, 'probe', me, 'probe_until', text(now + ask.silence))
elseif has_probe and not ask.is_probing then
    redis.call('HDEL', state, 'probe', 'probe_until')
    if ask.probe == 'clear' then redis.call('HDEL', state, 'unclear') end
end
if ask.pause then -- after the probe that may have come before it
    state_is('until', text(math.max(stated('until'), now + ask.pause)))
    state_is('unclear', 1)
end

local function filled(window, number, moment)
    local count = redis.call('ZCOUNT', calls, after(moment - window[1]), '+inf')
    if number == 1 then count = count + redis.call('ZCOUNT', others, after(moment - window[1]), '+inf') end
    return count
end

if ask.room then
    local moment = now - ask.room[2]
    for number = 1, ask.windows[1][2] - ask.room[1] - filled(ask.windows[1], 1, moment) do
        redis.call('ZADD', others, text(moment), name(number) .. ':' .. text(now))
    end
end

if ask.is_last then
    redis.call('ZREM', seen, me)
    redis.call('HDEL', spare, me)
    redis.call('HDEL', line, me)
    return cjson.encode({ is_known = false })
end

-- who there is
redis.call('ZADD', seen, text(now), me)
redis.call('ZREMRANGEBYSCORE', seen, '-inf', text(now - ask.memory))
local live = heard_lately()
local lost = math.min(redis.call('ZCARD', seen) - live, math.max(0, ask.processes - live))
local is_settled = stated('settled') <= now

local function is_live(process)
    return (tonumber(redis.call('ZSCORE', seen, process) or 0)) > now - ask.silence
end

-- how much there is for this process, in each window
local set_aside = {}
for number in ipairs(ask.windows) do set_aside[number] = 0 end
local spares = redis.call('HGETALL', spare)
for i = 1, #spares, 2 do
    if not redis.call('ZSCORE', seen, spares[i]) then
        redis.call('HDEL', spare, spares[i])
    elseif spares[i] ~= me and is_live(spares[i]) then
        for number, count in ipairs(cjson.decode(spares[i + 1])) do
            set_aside[number] = (set_aside[number] or 0) + count
        end
    end
end

local free, granted = math.huge, 0
local left = {}
for number, window in ipairs(ask.windows) do
    local share = math.floor(window[2] / ask.processes)
    left[number] = window[2] - filled(window, number, now) - lost * share
    free = math.min(free, left[number] - set_aside[number])
end

local function wait_for_room() -- the next place is there when so many have left the window
    local wait = 0
    for number, window in ipairs(ask.windows) do
        local mine = left[number] - set_aside[number] - granted
        if mine <= 0 then
            local next_one = redis.call('ZRANGEBYSCORE', calls, after(now - window[1]), '+inf',
                'WITHSCORES', 'LIMIT', text(-mine), '1')
            wait = math.max(wait, next_one[2] and next_one[2] + window[1] - now or ask.beat)
        end
    end
    return wait
end

-- those who wait get one place each in turn, beginning with who has gone without for longest
local latest, waiting = 0, {}
local entries = redis.call('HGETALL', line)
for i = 1, #entries, 2 do
    local entry = cjson.decode(entries[i + 1])
    if entries[i] == me then
        latest = entry[3]
    elseif not is_live(entries[i]) then
        redis.call('HDEL', line, entries[i])
    elseif entry[1] > 0 and entry[2] > now then
        waiting[#waiting + 1] = { entries[i], entry[1], entry[3] }
    end
end
local function turns()
    waiting[#waiting + 1] = { me, ask.wanted, latest }
    table.sort(waiting, function(a, b)
        if a[3] ~= b[3] then return a[3] < b[3] end
        return a[1] < b[1]
    end)
    local mine, rest, moved = 0, free, true
    while rest > 0 and moved do
        moved = false
        for _, one in ipairs(waiting) do
            if one[2] > 0 and rest > 0 then
                one[2], rest, moved = one[2] - 1, rest - 1, true
                if one[1] == me then mine = mine + 1 end
            end
        end
    end
    return mine
end

local pause = math.max(0, stated('until') - now)
local unclear = stated('unclear') == 1
local wait = 0
if not is_settled then
    wait = ask.beat
elseif ask.wanted == 0 then
    wait = 0
elseif pause > 0 then
    wait = pause
elseif unclear and stated('probe_until') > now then
    wait = ask.beat / 4
else
    granted = turns()
    if unclear and granted > 0 then
        granted = 1
        redis.call('HSET', state, 'probe', me, 'probe_until', text(now + ask.silence))
    end
    for number = ask.first, ask.first + granted - 1 do
        redis.call('ZADD', calls, text(now + ask.lease), name(number))
    end
    if granted > 0 then latest = now end
    if granted < ask.wanted then
        wait = math.max(wait_for_room(), ask.beat / 10) -- or it is another's turn
    end
end
wait = math.min(wait, ask.beat)
redis.call('HSET', line, me,
    cjson.encode({ ask.wanted - granted, now + wait + ask.beat, latest }))

-- what is set aside for it from now on; until it knows, what it was told before holds too
local told, kept, room = {}, {}, {}
for number, window in ipairs(ask.windows) do
    left[number] = left[number] - granted
    local part = math.floor(left[number] / math.max(ask.processes, live))
    told[number] = math.max(0, math.min(part, left[number] - set_aside[number]))
    kept[number] = is_settled and math.max(told[number], ask.spare[number]) or ask.spare[number]
    room[number] = left[number]
end
redis.call('HSET', spare, me, cjson.encode(kept))

local others_seen, all_seen = {}, redis.call('ZRANGE', seen, 0, -1, 'WITHSCORES')
for i = 1, #all_seen, 2 do
    if all_seen[i] ~= me then
        others_seen[#others_seen + 1] = { all_seen[i], now - all_seen[i + 1] }
    end
end

local longest_kept = text(longest + ask.memory)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, longest_kept) end
return cjson.encode({
    is_known = true,
    granted = granted,
    is_clear = not unclear,
    wait = math.max(0, math.ceil(wait)),
    pause = pause,
    spare = told,
    room = room,
    live = live,
    others = others_seen,
    is_settled = is_settled,
})
