-- Takes the message of one process in, grants calls and replies, in one step. `_messages.py` has
-- the keys, the messages and the invariants. Times are in milliseconds of the clock of Redis.
local calls, peers, reserved, queue, state = unpack(KEYS)
local message = cjson.decode(ARGV[1])
local me = message.process
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number) return string.format('%.0f', number + 0) end
local function after(moment) return '(' .. text(moment) end
local function call_id(number) return me .. ':' .. text(number) end
local function get_state(field) return tonumber(redis.call('HGET', state, field) or 0) end
local function set_state(field, value) redis.call('HSET', state, field, value) end

local function count_live()
    return redis.call('ZCOUNT', peers, after(now - message.peer_timeout), '+inf')
end

-- without any live process, data may be lost: all get time to report
if count_live() == 0 then set_state('complete_at', text(now + message.peer_timeout)) end
if message.resync or not (message.full_report or redis.call('HGET', reserved, me)) then
    return cjson.encode({ known = false })
end

local longest = 0
for _, window in ipairs(message.windows) do longest = math.max(longest, window[1]) end
redis.call('ZREMRANGEBYSCORE', calls, '-inf', text(now - longest - message.peer_timeout))

-- what the process reports
for _, peer in ipairs(message.peers) do -- a process that is cut off cannot register itself
    if get_state('complete_at') > now and not redis.call('ZSCORE', peers, peer[1]) then
        redis.call('ZADD', peers, text(now - peer[2]), peer[1])
    end
end
for _, number in ipairs(message.released) do redis.call('ZREM', calls, call_id(number)) end
for _, call in ipairs(message.finished) do
    redis.call('ZADD', calls, text(now - call[2]), call_id(call[1]))
end
for _, number in ipairs(message.in_flight) do
    redis.call('ZADD', calls, text(now + message.lease), call_id(number))
end

local is_prober = redis.call('HGET', state, 'prober') == me
if message.is_probing and (is_prober or get_state('prober_until') <= now) then
    redis.call('HSET', state, 'prober', me, 'prober_until', text(now + message.peer_timeout))
elseif is_prober and not message.is_probing then
    redis.call('HDEL', state, 'prober', 'prober_until')
    if message.probe == 'succeeded' then redis.call('HDEL', state, 'needs_probe') end
end
if message.pause then -- after the probe: that may have ended before
    set_state('paused_until', text(math.max(get_state('paused_until'), now + message.pause)))
    set_state('needs_probe', 1)
end

if message.is_last then
    redis.call('ZREM', peers, me)
    redis.call('HDEL', reserved, me)
    redis.call('HDEL', queue, me)
    return cjson.encode({ known = false })
end

-- which processes there are
redis.call('ZADD', peers, text(now), me)
redis.call('ZREMRANGEBYSCORE', peers, '-inf', text(now - message.retention))
local live = count_live()
local lost = math.min(redis.call('ZCARD', peers) - live, math.max(0, message.processes - live))
local all_reported = get_state('complete_at') <= now

local function is_live(process)
    return tonumber(redis.call('ZSCORE', peers, process) or 0) > now - message.peer_timeout
end

-- how many calls there are for this process, in each window
local set_aside, other_limits = {}, 0
for number in ipairs(message.windows) do set_aside[number] = 0 end
local entries = redis.call('HGETALL', reserved)
for i = 1, #entries, 2 do
    if not redis.call('ZSCORE', peers, entries[i]) then
        redis.call('HDEL', reserved, entries[i])
    elseif entries[i] ~= me and is_live(entries[i]) then
        local entry = cjson.decode(entries[i + 1])
        for number, count in ipairs(entry[1]) do
            set_aside[number] = (set_aside[number] or 0) + count
        end
        if entry[2] ~= message.limit then other_limits = other_limits + 1 end
    end
end

local free, granted = math.huge, 0
local remaining = {}
for number, window in ipairs(message.windows) do
    local count = redis.call('ZCOUNT', calls, after(now - window[1]), '+inf')
    local share = math.floor(window[2] / message.processes)
    remaining[number] = window[2] - count - lost * share
    free = math.min(free, remaining[number] - set_aside[number])
end

local function wait_for_free_call() -- until enough calls have left the window
    local wait = 0
    for number, window in ipairs(message.windows) do
        local mine = remaining[number] - set_aside[number] - granted
        if mine <= 0 then
            local oldest = redis.call('ZRANGEBYSCORE', calls, after(now - window[1]), '+inf',
                'WITHSCORES', 'LIMIT', text(-mine), '1')
            wait = math.max(wait, oldest[2] and oldest[2] + window[1] - now or message.heartbeat)
        end
    end
    return wait
end

-- waiting processes get one call each in turn, beginning with the longest without a grant
local last_grant, waiting = 0, {}
entries = redis.call('HGETALL', queue)
for i = 1, #entries, 2 do
    local entry = cjson.decode(entries[i + 1])
    if entries[i] == me then
        last_grant = entry[3]
    elseif not is_live(entries[i]) then
        redis.call('HDEL', queue, entries[i])
    elseif entry[1] > 0 and entry[2] > now then
        waiting[#waiting + 1] = { entries[i], entry[1], entry[3] }
    end
end
local function my_part()
    waiting[#waiting + 1] = { me, message.wanted, last_grant }
    table.sort(waiting, function(a, b)
        if a[3] ~= b[3] then return a[3] < b[3] end
        return a[1] < b[1]
    end)
    local mine, rest, moved = 0, free, true
    while rest > 0 and moved do
        moved = false
        for _, process in ipairs(waiting) do
            if process[2] > 0 and rest > 0 then
                process[2], rest, moved = process[2] - 1, rest - 1, true
                if process[1] == me then mine = mine + 1 end
            end
        end
    end
    return mine
end

local pause = math.max(0, get_state('paused_until') - now)
local needs_probe = get_state('needs_probe') == 1
local wait = 0
if not all_reported then
    wait = message.heartbeat
elseif message.wanted == 0 then
    wait = 0
elseif pause > 0 then
    wait = pause
elseif needs_probe and get_state('prober_until') > now then
    wait = message.heartbeat / 4
else
    granted = my_part()
    if needs_probe and granted > 0 then
        granted = 1
        redis.call('HSET', state, 'prober', me, 'prober_until', text(now + message.peer_timeout))
    end
    for number = message.first, message.first + granted - 1 do
        redis.call('ZADD', calls, text(now + message.lease), call_id(number))
    end
    if granted > 0 then last_grant = now end
    if granted < message.wanted then -- at least a while, for it may be another's turn
        wait = math.max(wait_for_free_call(), message.heartbeat / 10)
    end
end
wait = math.min(wait, message.heartbeat)
redis.call('HSET', queue, me,
    cjson.encode({ message.wanted - granted, now + wait + message.heartbeat, last_grant }))

-- what is reserved for it from now on; the previous reservation holds too until it has this reply
local offered, kept = {}, {}
for number in ipairs(message.windows) do
    remaining[number] = remaining[number] - granted
    local part = math.floor(remaining[number] / math.max(message.processes, live))
    offered[number] = math.max(0, math.min(part, remaining[number] - set_aside[number]))
    local previous = message.reserved[number]
    kept[number] = all_reported and math.max(offered[number], previous) or previous
end
redis.call('HSET', reserved, me, cjson.encode({ kept, message.limit }))

local other_peers, scores = {}, redis.call('ZRANGE', peers, 0, -1, 'WITHSCORES')
for i = 1, #scores, 2 do
    if scores[i] ~= me then
        other_peers[#other_peers + 1] = { scores[i], now - scores[i + 1] }
    end
end

local kept_for = text(longest + message.retention)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, kept_for) end
return cjson.encode({
    known = true,
    granted = granted,
    needs_probe = needs_probe,
    wait = math.max(0, math.ceil(wait)),
    pause = pause,
    reserved = offered,
    remaining = remaining,
    live_peers = live,
    peers = other_peers,
    all_reported = all_reported,
    other_limits = other_limits,
})
