# Becomes the server, after it has left a watchdog behind: a process that waits at the other end of a pipe
# which the parent holds. A line means that all is well; the end of the pipe, that the parent is gone.
#
# Arguments: the signal that stops the server, the folder of its data, a folder to remove when it is gone, and
# then the server's command line.
signal=$1 cluster=$2 remove=$3
shift 3
exec 3<&0 </dev/null

# In two steps, so that the watchdog is no child of the server, which would take its end for a crash.
( (
    trap '' HUP INT QUIT TERM
    read -r _ <&3 && exit 0
    tries=0
    while [ "$tries" -lt 150 ] && kill -0 $$ 2>/dev/null; do
        # The number may have gone to another process; the server wrote its own down.
        if [ -r "$cluster/postmaster.pid" ] && read -r pid <"$cluster/postmaster.pid" && [ "$pid" != $$ ]; then
            break
        fi
        if [ "$tries" -eq 100 ]; then signal=QUIT; fi
        if [ "$tries" -eq 140 ]; then signal=KILL; fi
        kill -s "$signal" $$ 2>/dev/null
        tries=$((tries + 1))
        sleep 0.1
    done
    rm -rf -- "$remove"
) & )

exec 3<&-
exec "$@"
