import com.alibaba.fastjson2.JSON;
import com.alibaba.fastjson2.JSONWriter.Feature;
import com.alibaba.otter.canal.connector.core.producer.MQMessageUtils;
import com.alibaba.otter.canal.instance.manager.CanalInstanceWithManager;
import com.alibaba.otter.canal.instance.manager.model.Canal;
import com.alibaba.otter.canal.instance.manager.model.CanalParameter;
import com.alibaba.otter.canal.protocol.ClientIdentity;
import com.alibaba.otter.canal.protocol.FlatMessage;
import com.alibaba.otter.canal.protocol.Message;
import com.alibaba.otter.canal.server.embedded.CanalServerWithEmbedded;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;

/**
 * Prints what Alibaba Canal makes of a server's binlog, one flat message a line, in the form in which it sends them to Kafka, until
 * its standard input ends.
 */
public class CanalDump {
    public static void main(String[] args) throws Exception {
        if (args.length != 7) {
            System.err.println("usage: CanalDump HOST PORT USER PASSWORD FILE POSITION FILTER");
            System.exit(2);
        }
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        System.setOut(System.err); // its log must not get among the messages
        Thread end = new Thread(() -> {
            try {
                while (System.in.read() >= 0) { }
            } catch (java.io.IOException e) {
                // the same as its end
            }
            Runtime.getRuntime().halt(0);
        });
        end.setDaemon(true);
        end.start();
        follow(parameters(args), args[6], out);
    }

    static CanalParameter parameters(String[] args) {
        CanalParameter p = new CanalParameter();
        p.setCanalId(1L);
        p.setSourcingType(CanalParameter.SourcingType.MYSQL);
        p.setHaMode(CanalParameter.HAMode.HEARTBEAT);
        p.setMetaMode(CanalParameter.MetaMode.MEMORY);
        p.setIndexMode(CanalParameter.IndexMode.MEMORY);
        p.setStorageMode(CanalParameter.StorageMode.MEMORY);
        p.setMemoryStorageBufferSize(32 * 1024);
        p.setDbAddresses(Collections.singletonList(new InetSocketAddress(args[0], Integer.parseInt(args[1]))));
        p.setDbUsername(args[2]);
        p.setDbPassword(args[3]);
        p.setSlaveId(1_000_000_000L + ProcessHandle.current().pid()); // two servers must not meet the same one
        p.setConnectionCharset("UTF-8");
        p.setDefaultDatabaseName("");
        p.setPositions(Collections.singletonList(
            "{\"journalName\":\"" + args[4] + "\",\"position\":" + Long.parseLong(args[5]) + "}"));
        p.setBlackFilter("mysql\\..*,information_schema\\..*,performance_schema\\..*,sys\\..*");
        p.setDdlIsolation(false);
        p.setFilterTableError(true);
        return p;
    }

    static void follow(CanalParameter parameters, String filter, PrintStream out) throws Exception {
        Canal canal = new Canal();
        canal.setId(1L);
        canal.setName("dump");
        canal.setCanalParameter(parameters);
        CanalServerWithEmbedded server = CanalServerWithEmbedded.instance();
        server.setCanalInstanceGenerator(name -> new CanalInstanceWithManager(canal, filter));
        server.start();
        server.start("dump");
        ClientIdentity client = new ClientIdentity("dump", (short) 1001, filter);
        server.subscribe(client);
        ThreadPoolExecutor builder = new ThreadPoolExecutor(1, 1, 1, TimeUnit.MINUTES, new LinkedBlockingQueue<>());
        while (true) {
            Message m = server.getWithoutAck(client, 50);
            if (m.getId() == -1) {
                Thread.sleep(20);
                continue;
            }
            for (FlatMessage f : MQMessageUtils.messageConverter(MQMessageUtils.buildMessageData(m, builder), m.getId())) {
                out.println(JSON.toJSONString(f, Feature.WriteNulls));
            }
            out.flush();
            server.ack(client, m.getId());
        }
    }
}
